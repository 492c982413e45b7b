# The gateway alone, for Tritons that run elsewhere:
#   docker build -t stagegate .
#   docker run -p 8001:8001 -p 8002:8002 -v "$PWD/stagegate.yaml:/etc/stagegate/stagegate.yaml:ro" -v stagegate:/var/lib/stagegate stagegate

FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cargo-web rustc-web gcc libc6-dev
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --constraint constraints.txt --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels stagegate \
    && useradd --system --uid 10001 --home-dir /var/lib/stagegate --create-home stagegate
USER stagegate
WORKDIR /var/lib/stagegate
# Inference; metrics and health. The admin API listens on loopback: docker exec CONTAINER stagegate status
EXPOSE 8001 8002
# The gateway finishes the requests in flight before it ends.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8002/livez', timeout=2)"]
ENTRYPOINT ["stagegate"]
CMD ["gateway", "--config", "/etc/stagegate/stagegate.yaml"]
