"""
Durability: messages that were accepted, and how far each of their deliveries is.
"""
