"""Studies: many settings of one stage, measured alike."""
