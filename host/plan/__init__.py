"""Plans of products: how they are cut, where tensors lie and what descriptors say, without data; and running them."""
