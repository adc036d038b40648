"A short training run that repairs a pruned model."
