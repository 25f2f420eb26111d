"""`python -m autoscaler.charges_report`, on the head: one line with what its machines cost.

The laptop asks for it where Ray runs `ray stop`: from then on nothing is launched.
"""

import sys

from autoscaler.errors import AutoscalerError
from autoscaler.lambda_cloud.credentials import own_cluster
from autoscaler.session import open_session


def main() -> int:
    try:
        cluster = own_cluster()
        sys.stdout.write(f"{open_session().books.report(cluster)}\n")
    except AutoscalerError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
