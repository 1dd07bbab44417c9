"""Bulk scoring: an archive cut into shards, each scored once, reconciled at the end."""
