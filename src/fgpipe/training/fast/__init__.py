"""LoRA training of Gemma 3 text models at a GPU's rate: many adapters over one frozen base, packed, without padding."""
