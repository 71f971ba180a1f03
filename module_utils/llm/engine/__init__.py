"""Engines: how one boots, serves, is asked and judged. What is of vLLM alone stands in `vllm`."""
