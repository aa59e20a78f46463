# docker build --tag mtlora . && docker run --rm --volume "$PWD/results:/harness/results" mtlora make reproduce-glue
FROM python:3.11-slim-bookworm AS base
# Java is for METEOR, ROUGE-L and CIDEr; git for the commit in the records.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends default-jre-headless git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 mtlora \
    && install --directory --owner=1000 /harness
# PyTorch without its GPU libraries.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu \
    PIP_NO_CACHE_DIR=1
USER 1000

FROM base
WORKDIR /harness
# The packages come before the sources, so that an edit does not install them again.
COPY --chown=1000 Makefile pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=1000 mtlora/__init__.py mtlora/
RUN make setup
COPY --chown=1000 . .
CMD ["make", "help"]
