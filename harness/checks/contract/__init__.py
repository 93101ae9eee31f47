"""The contract test of methods: what is asked of them, and the processes that they are asked in."""
