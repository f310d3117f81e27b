"""What no history may show: the rules that are checked on whole logs, apart from the code that writes them."""
