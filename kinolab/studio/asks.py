"""What the helper can be asked: the name of each question, and the function that answers it."""

from __future__ import annotations

ASKS = {
    "probe": "kinolab.studio.looking:probe",
    "poster": "kinolab.studio.looking:poster",
    "proxy": "kinolab.studio.looking:proxy",
    "check": "kinolab.studio.looking:check",
    "told": "kinolab.studio.telling:told",
    "retell": "kinolab.studio.telling:retell",
    "scenes": "kinolab.studio.looking:scenes",
    "alike": "kinolab.studio.likeness:alike",
    "curation": "kinolab.studio.curating:curation",
    "mask": "kinolab.studio.painting:mask",
    "between": "kinolab.studio.painting:preview",
    "settings": "kinolab.studio.looking:settings",
    "recipes": "kinolab.studio.forms:recipes",
    "form": "kinolab.studio.forms:form",
    "inspect": "kinolab.studio.weighing:look",
}
"""Question -> "module:function"; its values are the function's arguments, its answer is plain."""
