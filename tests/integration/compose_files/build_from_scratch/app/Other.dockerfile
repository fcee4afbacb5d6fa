FROM clos-test:latest
EXPOSE 9000
CMD ["idle"]
