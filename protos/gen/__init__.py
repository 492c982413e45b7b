"""Generated from the `.proto` files beside this folder; never edited by hand."""
