"""RULER: thirteen synthetic tasks at any length, as NVIDIA generates them and with their accidents of position undone.

Source: arXiv:2404.06654; NVIDIA/RULER c3f5e3b.
"""
