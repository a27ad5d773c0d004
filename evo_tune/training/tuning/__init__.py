"""What is trained beside a pre-trained model: LoRA, adapters, and their bases."""
