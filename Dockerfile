# One image for the log and the four services: fewer images are fewer things to patch. `docker-compose.yml` starts them.
FROM python:3.11-slim AS build
WORKDIR /src
RUN pip install --no-cache-dir uv==0.13.8
COPY pyproject.toml requirements.lock README.md ./
COPY services services
COPY libs libs
# The lock is a constraint here: the versions and hashes of everything that the services need, and none of the tools.
RUN uv venv /opt/crewlog && uv pip install --python /opt/crewlog --no-cache \
      --constraint requirements.lock --build-constraint requirements.lock .

FROM python:3.11-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /nonexistent crewlog \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/crewlog /var/lib/crewlog-log
COPY --from=build /opt/crewlog /opt/crewlog
COPY tools/containers/healthy.py tools/containers/log_server.py /opt/crewlog/containers/
ENV PATH=/opt/crewlog/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
