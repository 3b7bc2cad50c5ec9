"""ICSG3D, the voxel baseline of Table 1, written anew in PyTorch.

Court et al., J. Chem. Inf. Model. 60, 4518 (2020):
crystal -> maps (`voxels`) -> Cond-DFC-VAE -> U-Net (`networks`) -> segmentation to atoms
(`segmentation`) -> crystal; its `oracle` leaves out both networks. Where article, public code
(`by256/icsg3d`) and this package differ, a comment says so at the place.
"""
