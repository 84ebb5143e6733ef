# One image for the three services; the compose file chooses which one a container runs.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/loramux
# The CPU build of torch. For CUDA, build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/loramux/bin/pip install --no-cache-dir --index-url ${TORCH_INDEX} torch==2.13.0
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY loramux loramux
COPY services services
RUN /opt/loramux/bin/pip install --no-cache-dir -c constraints.txt . './services[worker]'

FROM python:3.11-slim
# The worker compiles its kernels for the CPU it starts on, and caches them in its volume.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 loramux && install -d -o loramux /var/lib/loramux
COPY --from=build /opt/loramux /opt/loramux
ENV PATH=/opt/loramux/bin:$PATH PYTHONUNBUFFERED=1 LORAMUX_HOME=/var/lib/loramux/home
USER loramux
VOLUME /var/lib/loramux
ENTRYPOINT ["python", "-m"]
