"""A library's jobs for other trainers: data and configs of axolotl, LLaMA-Factory and unsloth."""
