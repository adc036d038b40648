"How much each block of layers changes the residual stream."
