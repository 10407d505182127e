"""What happens to one video: plain Python and torch, no Ray, no buckets, no command line."""
