#!/bin/sh
# Set the DVC remote of a workspace: infra/dvc-remote.sh s3://BUCKET/PATH
#
# Only if the workspace (RAFT_WORKSPACE) still has its default remote, a folder inside it; a remote that somebody chose
# stays. AWS_ENDPOINT_URL is the address of an S3 store that is not Amazon's.
set -eu
mkdir -p "$RAFT_WORKSPACE"
cd "$RAFT_WORKSPACE"
if [ -n "${DVC_SITE_CACHE_DIR:-}" ]; then install -d -m 700 "$DVC_SITE_CACHE_DIR"; fi    # DVC would make it writable for everybody
python -P -c 'import pathlib, tasks.versioning.pointers; tasks.versioning.pointers.ensure_repository(pathlib.Path())'
[ "$(dvc config core.remote)" = local ] || exit 0
dvc remote add --quiet --force store "$1"
dvc remote modify --quiet store verify true
if [ -n "${AWS_ENDPOINT_URL:-}" ]; then dvc remote modify --quiet store endpointurl "$AWS_ENDPOINT_URL"; fi
dvc remote default --quiet store    # last, so that an interrupted script is repeated
