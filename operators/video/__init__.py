"""Reading videos: headers and limits, readers, prefetching, and which frames are sampled."""
