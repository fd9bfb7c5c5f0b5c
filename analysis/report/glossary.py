"""What the page's words mean: its tooltips."""

GLOSSARY = {
    "layer": "One prunable weight tensor of a linear map or convolution. Biases and normalisation "
    "are not counted unless they were asked for.",
    "compression": "All weights divided by those kept: 10 keeps a tenth. 1 keeps everything.",
    "maximal": "Weights divided by layers: one weight is left in each layer. Beyond it some layer "
    "has to be empty.",
    "critical": "The largest compression seen to leave no layer of the network empty.",
    "connected": "The largest compression seen to leave a path of kept weights from the input to "
    "the output. With branches it can lie far above the critical compression.",
    "density": "Kept weights of a layer divided by all of its weights.",
    "cut": "A layer that every path from input to output crosses: empty it, and nothing arrives. "
    "Any other layer lies in a branch, and the network can live without it.",
    "dead": "A kept weight that lies on no path of kept weights from the input to the output: it "
    "takes memory and changes nothing.",
    "conserved": "What comes into a hidden unit as saliency goes out of it again, so that every "
    "cut of the network carries the same sum. A large layer shares it among more weights.",
    "effective": "The critical compression with dead weights not counted: all weights divided by "
    "the fewest living ones, in masks that leave each layer a living weight.",
}
