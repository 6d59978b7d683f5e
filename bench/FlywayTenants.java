import java.nio.file.Files;
import java.nio.file.Path;
import org.flywaydb.core.Flyway;

/** Flyway's way with many tenants: one program that calls it for each, one after the other. */
class FlywayTenants {
    public static void main(String[] words) throws Exception {
        String kind = words[0], url = words[1], user = words[2], password = words[3], files = words[4], list = words[5];
        for (String tenant : Files.readAllLines(Path.of(list))) {
            boolean isSchema = kind.equals("schema");
            Flyway.configure()
                .dataSource(isSchema ? url : url.replace("{}", tenant), user, password)
                .schemas(isSchema ? tenant : "public")
                .locations("filesystem:" + files)
                .load()
                .migrate();
        }
    }
}
