"""Settings made from the defaults, and what is said of those that cannot be."""

import pytest

from configs import base, digits_sms
from ssoup_jax.config import make_settings
from ssoup_jax.config.study import StudySettings
from ssoup_jax.data.settings import DataSettings
from ssoup_jax.errors import SettingsError

CONFIGS = {"base": base, "digits_sms": digits_sms}
GROUPS = {"data": DataSettings, "study": StudySettings}


def settings(**changes):
    """Returns the default settings with changes."""
    return make_settings(dict(base.get_config()) | changes)


def error_of(**changes):
    """Returns the one line that refuses the default settings with changes."""
    with pytest.raises(SettingsError) as error:
        settings(**changes)
    message = str(error.value)
    assert "\n" not in message, "one line"
    return message
