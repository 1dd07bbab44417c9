"""Archives of lesion pairs: indexed once into a manifest whose URIs address the members, never unpacked to disk."""
