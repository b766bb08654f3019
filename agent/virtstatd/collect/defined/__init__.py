"""All guests that libvirt knows, those that do not run among them."""
