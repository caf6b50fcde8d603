"""Several runs: sweep and leaderboard."""
