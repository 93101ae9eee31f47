"""What ``bench init`` copies: a method that keeps the contract, and a dataset card."""
