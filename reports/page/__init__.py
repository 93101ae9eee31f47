"""The parts of the page: what each shows of a leaderboard, as values for the templates."""
