"""Cortico-cerebellar networks as decoupling neural interfaces (Pemberton et al. 2021; Boven et al.
2023).
"""
