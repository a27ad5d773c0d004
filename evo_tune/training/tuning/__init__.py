"""Fine-tuning of pre-trained models: LoRA, adapters, and their bases."""
