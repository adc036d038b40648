"Find the layers of any decoder, load models, and know what a config says about its layers."
