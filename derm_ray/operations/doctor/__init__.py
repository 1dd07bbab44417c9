"""What would make a run fail, crawl or stand open, each with its mend."""
