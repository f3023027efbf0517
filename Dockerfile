# The default benchmark, from the data that the image holds to the printed table, without network:
#   docker build -t dgd-bench . && docker run --rm --network none dgd-bench
# Keep the results:     docker run --rm --user "$(id -u)" -v "$PWD/out:/results" dgd-bench      (make the folder `out` first)
# With no rights:       docker run --read-only --network none --cap-drop ALL --security-opt no-new-privileges dgd-bench
# Another benchmark:    ... dgd-bench --configfile config/cifar10.yaml      with the data set's archive in out/data/
FROM python:3.11-slim-bookworm

# The lock has a layer of its own: an edit of the code never installs torch again.
WORKDIR /app
COPY requirements.lock ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement requirements.lock

# All that a run writes lies in /results, so that any user can run it and a second run goes on where the first one was.
COPY . ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --editable . \
    && useradd --uid 1000 --no-create-home --home-dir /tmp bench \
    && install --directory --mode 1777 /results \
    && ln -s /results results && ln -s /results/data data && ln -s /results/.snakemake .snakemake

# With --user the user has no name here, and Snakemake asks for one; there is no git, and GitPython must not stop the run for it.
ENV USER=bench HOME=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet
USER bench
# A volume is writable also where the image is not (--read-only).
VOLUME /results /tmp
ENTRYPOINT ["/bin/sh", "/app/pipeline/docker-run"]
