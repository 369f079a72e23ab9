"""What encoders learn before any label is shown to them."""
