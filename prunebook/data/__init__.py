"Texts and questions, read and put into batches of tokens."
