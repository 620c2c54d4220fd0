#!/bin/bash
# Starts a scheduler here and a worker on each machine that is named, over ssh, until it is
# interrupted:
#
#     machines.sh 10.0.0.1 node1 node2 node3
#
# The first word is this machine's address in the network that it shares with the others. All of them
# have segpipe at the same path, and see this folder under the same name.
set -euo pipefail

address=$1
shift
file=$PWD/scheduler.json
dask=$(command -v dask)
rm -f "$file"
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -f "$file"' EXIT

"$dask" scheduler --host "$address" --port 0 --no-dashboard --scheduler-file "$file" &
for machine in "$@"; do
    # -tt: the worker ends with the connection.
    ${SSH:-ssh -tt} "$machine" "'$dask' worker --no-dashboard --nthreads 3 --memory-limit 0 \
        --death-timeout 60 --scheduler-file '$file'" </dev/null &
done
echo "segpipe run SCENE -o OUTPUT --scheduler-file $file"
wait
