"""Sa2VA on Qwen3-VL: a generating MLLM whose [SEG] states prompt SAM2."""
