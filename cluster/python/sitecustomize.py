"""Python imports this by itself when it starts on a node (`setup_node.sh` puts it on the path).

Ray runs its monitor as a script from a folder that has an `autoscaler.py` of its own. That
folder comes first on the monitor's path, so that our package of this name, and with it the
provider, could not be imported there. It can be now, before that folder is on the path.
"""

import sys

if any(word.endswith(("/v2/monitor.py", "/_private/monitor.py")) for word in sys.orig_argv):
    import autoscaler  # noqa: F401
