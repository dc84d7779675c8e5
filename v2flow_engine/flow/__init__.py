"""Rectified flow: the path between noise and data, and the solvers that integrate a velocity along it."""
