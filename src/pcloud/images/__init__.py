"""Images: JEOS definitions and their builder, assembly images on top, guests' identities; `store.ImageStore` is the door."""
