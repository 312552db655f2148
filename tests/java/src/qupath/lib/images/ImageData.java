package qupath.lib.images;

import qupath.lib.images.servers.ImageServer;

/** Stands in for QuPath's class. */
public class ImageData<T> {
    private final ImageServer<T> server;

    public ImageData(ImageServer<T> server) {
        this.server = server;
    }

    public ImageServer<T> getServer() {
        return server;
    }
}
