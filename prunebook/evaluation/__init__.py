"Losses, answers and the intervals of both."
