"""derm_ray: paired clinical and dermoscopy skin-lesion classification on Ray.

Research software, not a medical device.
"""

__version__ = "0.1.0"

RESEARCH_NOTICE = "For research use only; not a medical device."
