"Does a pruned model compute the same where it is served?"
