"""Deep learning in a bilateral brain with hemispheric specialization (Rajagopalan et al. 2022)."""
