"""A Transformers image model without inputs: the image size is in its config."""

from transformers import ViTConfig, ViTModel

model = ViTModel(
    ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
)
