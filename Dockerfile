# The default benchmark, from the data that the image holds to the printed table, without network (docs/environments.md has more):
#   docker build -t dgd-bench . && docker run --rm --network none dgd-bench
# Without CUDA:         docker build --build-arg TORCH_INDEX=... -t dgd-bench:cpu .      (an index of pip's that has torch's CPU wheels)
# Keep the results:     docker run --rm --user "$(id -u)" -v "$PWD/out:/results" dgd-bench      (make the folder `out` first)
# With no rights:       docker run --read-only --network none --cap-drop ALL --security-opt no-new-privileges dgd-bench
# Another benchmark:    ... dgd-bench --configfile config/cifar10.yaml      with the data set's archive in out/data/
# One command of ours:  ... dgd-bench dgd-bench doctor
FROM python:3.11-slim-bookworm
WORKDIR /app
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# What changes least comes first: torch, of either build; then the other packages; then dgd-bench, which is only pointed to. An edit
# of the code copies files and installs nothing.
ARG TORCH_INDEX=
COPY constraints.txt requirements-cuda.lock ./
RUN if [ -n "$TORCH_INDEX" ]; then \
        python -m pip install --no-deps --index-url "$TORCH_INDEX" --constraint constraints.txt torch torchvision; \
    else \
        python -m pip install --require-hashes --requirement requirements-cuda.lock; \
    fi
COPY requirements-run.lock ./
RUN python -m pip install --no-deps --require-hashes --requirement requirements-run.lock
COPY pyproject.toml README.md LICENSE ./
RUN mkdir dgd && touch dgd/__init__.py \
    && python -m pip install --no-deps --no-build-isolation --editable . \
    && python -m pip check \
    && useradd --uid 1000 --no-create-home --home-dir /tmp bench

# All that a run writes lies in /results, so that any user can run it and a second run goes on where the first one was.
RUN install --directory --mode 1777 /results \
    && ln -s /results results && ln -s /results/data data && ln -s /results/.snakemake .snakemake

# With --user the user has no name here, and Snakemake asks for one; there is no git, and GitPython must not stop the run for it.
# The container toolkit of NVIDIA reads what of the driver is wanted.
ENV USER=bench HOME=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER bench
# A volume is writable also where the image is not (--read-only).
VOLUME /results /tmp
ENTRYPOINT ["/bin/sh", "/app/pipeline/docker-run"]

COPY . ./
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dgd-bench" \
    org.opencontainers.image.description="A reproducibility benchmark for filter grafting and knowledge distillation (DGD, arXiv 2004.12311)" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="$REVISION"
