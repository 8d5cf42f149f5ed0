#!/bin/sh
# Name the store to which a workspace's DVC pushes: infra/dvc-remote.sh s3://BUCKET/PATH
#
# Only where the workspace (RAFT_WORKSPACE) still has the remote that it came with, a folder in it: what somebody
# chose stays. An S3 store that is not Amazon's is found by AWS_ENDPOINT_URL.
set -eu
mkdir -p "$RAFT_WORKSPACE"
cd "$RAFT_WORKSPACE"
if [ -n "${DVC_SITE_CACHE_DIR:-}" ]; then install -d -m 700 "$DVC_SITE_CACHE_DIR"; fi    # DVC would let everybody write
python -P -c 'import pathlib, tasks.versioning.pointers; tasks.versioning.pointers.ensure_repository(pathlib.Path())'
[ "$(dvc config core.remote)" = local ] || exit 0
dvc remote add --quiet --force store "$1"
dvc remote modify --quiet store verify true
if [ -n "${AWS_ENDPOINT_URL:-}" ]; then dvc remote modify --quiet store endpointurl "$AWS_ENDPOINT_URL"; fi
dvc remote default --quiet store    # last: until then it is done again
