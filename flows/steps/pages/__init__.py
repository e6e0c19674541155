"""What people look at: plots, pages and the words on them."""
