"""Where tables come from: files read as text, one engine over them."""
