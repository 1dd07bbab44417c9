"""Networks for lesion pairs, as tensors see them."""
